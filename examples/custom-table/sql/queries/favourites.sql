-- What is each user's favourite category on the newest day, and what is the user's vector made of?
-- Reads user_category and user_feature. No parameters.
with ranked as (
    select
        user_id,
        category,
        share,
        n_likes,
        row_number() over (partition by user_id order by share desc, category) as place
    from user_category
    where dt = (select max(dt) from user_category)
)
select r.user_id, r.category, round(100.0 * r.share) as percent, r.n_likes, f.source
from ranked as r
join user_feature as f on f.user_id = r.user_id and f.dt = (select max(dt) from user_feature)
where r.place = 1
order by r.share desc, r.user_id
