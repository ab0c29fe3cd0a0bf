-- Questions and answers that a language model is aligned with: rows of tasks, made from what was known at
-- $interval_start; only the labels come from [$interval_start, $interval_end). opinion, user_history, item_audience and
-- reason_prompt are those as of $interval_start.
--
--   pair     will this user like this item: rated in the interval and not met before; at most $pairs_per_user of each
--            label per user. related = the user's latest titles that go with the item (one of the two stands among the
--            other's co_consumed), attributes = its categories among the user's. Where nothing that is liked goes with
--            the item and no category is shared, no answer could say why: such pairs are left out, likes and dislikes
--            alike, or an empty evidence would give the outcome away; but for dislikes that go with what is disliked,
--            which have a reason. (That alone always means a dislike then: 2 of MovieLens-100k's 1,311 pairs.)
--   item, history   as the nightly job asks them: the evidence of reason_prompt
--   choose   a liked item among four: the others are titled, nearest in popularity, and the user never met them; extra =
--            their titles in an order by digest, attributes = what goes with each
--   rewrite  an item's bad reason, in which what it goes with is another item, to be written again
--
-- Of $max_examples half are pairs, a tenth each item and history, 15 in a hundred each choose and rewrite; which ones,
-- their parts and folds follow from digests of ids: nothing depends on the order of the work. `fold` and `part` are by
-- user, or by item where there is no user.
with audience as (
    select item_id, title, n_users, categories
    from item_audience
    where title is not null
),
edge as (
    select distinct a_id, b_id
    from (
        select item_id as a_id, other['item_id'] as b_id
        from (select item_id, unnest(co_consumed) as other from item_audience)
        union all
        select other['item_id'] as a_id, item_id as b_id
        from (select item_id, unnest(co_consumed) as other from item_audience)
    )
),
rated as (
    select r.user_id, r.item_id, r.rating >= coalesce(l.level, cast($like_threshold as double)) as label
    from like_level as l
    right join (
        select user_id, item_id, rating
        from (
            select
                user_id,
                item_id,
                rating,
                row_number() over (
                    partition by user_id, item_id order by event_timestamp desc, event desc nulls last, rating desc)
                    as place
            from interaction
            where event_timestamp >= $interval_start and event_timestamp < $interval_end and rating is not null
        )
        where place = 1
    ) as r on r.user_id = l.user_id
),
-- Every item that a user met before the interval's end: none of them is a wrong choice.
met as (
    select user_id, item_id from opinion
    union
    select user_id, item_id from interaction
    where event_timestamp >= $interval_start and event_timestamp < $interval_end
),
target as (
    select
        r.user_id,
        r.item_id,
        r.label,
        row_number() over (
            partition by r.user_id, r.label
            order by md5(concat('pair ', r.user_id, ' ', r.item_id)), r.item_id) as place
    from rated as r
    left anti join opinion as o on o.user_id = r.user_id and o.item_id = r.item_id
    left semi join audience as a on a.item_id = r.item_id
    left semi join user_history as h on h.user_id = r.user_id
),
asked as (
    select user_id, item_id, label from target where place <= $pairs_per_user
),
-- Positives and, for each, three items of like popularity.
placed as (
    select item_id, title, row_number() over (order by n_users, item_id) as place from audience
),
near as (
    select user_id, target_id, item_id, title
    from (
        select
            c.user_id,
            c.target_id,
            c.item_id,
            c.title,
            row_number() over (
                partition by c.user_id, c.target_id
                order by c.distance, md5(concat(c.user_id, ' ', c.target_id, ' ', c.item_id)), c.item_id) as nearest
        from (
            select w.user_id, w.target_id, p.item_id, p.title, abs(w.offset) as distance
            from (
                select
                    a.user_id,
                    a.item_id as target_id,
                    p.place,
                    unnest(make_array(-9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9)) as offset
                from asked as a
                join placed as p on p.item_id = a.item_id
                where a.label
            ) as w
            join placed as p on p.place = w.place + w.offset
        ) as c
        left anti join met as m on m.user_id = c.user_id and m.item_id = c.item_id
    )
    where nearest <= 3
),
candidate as (
    select user_id, target_id, item_id, title from near
    union all
    select a.user_id, a.item_id as target_id, a.item_id, i.title
    from asked as a
    join audience as i on i.item_id = a.item_id
    where a.label
),
-- What of a user's latest goes with an item.
recent as (
    select user_id, seen['item_id'] as item_id, seen['title'] as title, seen['liked'] as liked,
        seen['event_timestamp'] as event_timestamp
    from (select user_id, unnest(recent) as seen from user_history)
),
wanted as (
    select user_id, item_id from asked
    union
    select user_id, item_id from candidate
),
going as (
    select
        user_id,
        item_id,
        array_agg(title order by event_timestamp desc, title) filter (where liked) as liked,
        array_agg(title order by event_timestamp desc, title) filter (where not liked) as disliked
    from (
        -- A title that a user both likes and dislikes, as two items, says nothing.
        select w.user_id, w.item_id, r.title, bool_and(r.liked) as liked, max(r.event_timestamp) as event_timestamp
        from wanted as w
        join edge as e on e.a_id = w.item_id
        join recent as r on r.user_id = w.user_id and r.item_id = e.b_id
        where r.title is not null
        group by w.user_id, w.item_id, r.title
        having bool_and(r.liked) = bool_or(r.liked)
    )
    group by user_id, item_id
),
pair_evidence as (
    select
        a.user_id,
        a.item_id,
        a.label,
        i.title,
        array_slice(array_remove_all(coalesce(g.liked, cast(make_array() as varchar[])), i.title), 1, 3) as for_it,
        array_slice(
            array_except(coalesce(g.disliked, cast(make_array() as varchar[])), array_append(h.liked_titles, i.title)),
            1, 2) as against,
        h.liked_titles,
        h.disliked_titles,
        array_slice(
            array_except(i.categories, array_except(i.categories, h.top_categories)),
            1, 3) as shared
    from asked as a
    join audience as i on i.item_id = a.item_id
    join user_history as h on h.user_id = a.user_id
    left join going as g on g.user_id = a.user_id and g.item_id = a.item_id
),
pair_example as (
    select
        'pair' as task,
        user_id,
        item_id,
        label,
        title as subject,
        case when label then 'like' else 'dislike' end as verdict,
        -- What goes with the item is always among what is shown.
        array_slice(
            array_distinct(array_concat(for_it, array_remove_all(liked_titles, title))), 1, 6) as liked,
        array_slice(
            array_distinct(array_concat(
                against, array_except(disliked_titles, array_append(liked_titles, title)))), 1, 3) as disliked,
        array_concat(for_it, against) as related,
        shared as attributes,
        cast(make_array() as varchar[]) as extra
    from pair_evidence
    where cardinality(for_it) > 0 or cardinality(shared) > 0 or (not label and cardinality(against) > 0)
),
choice as (
    select
        c.user_id,
        c.target_id as item_id,
        array_agg(c.title order by md5(concat('choose ', c.user_id, ' ', c.target_id, ' ', c.item_id)), c.item_id)
            as titles,
        array_agg(
            coalesce(array_to_string(array_slice(array_remove_all(g.liked, c.title), 1, 2), '; '), '')
            order by md5(concat('choose ', c.user_id, ' ', c.target_id, ' ', c.item_id)), c.item_id) as goes
    from candidate as c
    left join going as g on g.user_id = c.user_id and g.item_id = c.item_id
    group by c.user_id, c.target_id
),
choose_example as (
    select
        'choose' as task,
        p.user_id,
        p.item_id,
        true as label,
        p.title as subject,
        'like' as verdict,
        array_slice(array_distinct(array_concat(p.for_it, array_remove_all(p.liked_titles, p.title))), 1, 6) as liked,
        cast(make_array() as varchar[]) as disliked,
        array_slice(p.for_it, 1, 2) as related,
        c.goes as attributes,
        c.titles as extra
    from pair_evidence as p
    join choice as c on c.user_id = p.user_id and c.item_id = p.item_id
    where p.label and cardinality(p.for_it) > 0 and cardinality(array_distinct(c.titles)) = 4
),
nightly_example as (
    select
        kind as task,
        user_id,
        item_id,
        cast(null as boolean) as label,
        subject,
        verdict,
        liked,
        disliked,
        related,
        attributes,
        cast(make_array() as varchar[]) as extra
    from reason_prompt
    where kind in ('item', 'history') and (subject is not null or cardinality(liked) > 0 or cardinality(disliked) > 0)
        and cardinality(liked) + cardinality(disliked) + cardinality(attributes) > 0
),
-- The bad reason goes with an item that stands nowhere in the evidence.
swapped as (
    select
        item_id,
        subject,
        verdict,
        liked,
        disliked,
        related,
        attributes,
        lead(subject) over (order by md5(item_id), item_id) as wrong
    from nightly_example
    where task = 'item' and subject is not null and verdict in ('like', 'mixed') and cardinality(liked) > 0
),
rewrite_example as (
    select
        'rewrite' as task,
        cast(null as varchar) as user_id,
        item_id,
        cast(null as boolean) as label,
        subject,
        verdict,
        liked,
        cast(make_array() as varchar[]) as disliked,
        cast(make_array() as varchar[]) as related,
        attributes,
        make_array(
            reason_text('<think>', example_answer(
                'item',
                subject,
                cast(verdict as varchar),
                make_array(cast(wrong as varchar)),
                cast(make_array() as varchar[]),
                cast(make_array() as varchar[]),
                cast(attributes as varchar[]),
                cast(make_array() as varchar[]),
                concat('bad ', item_id))),
            wrong) as extra
    from swapped
    where wrong is not null and wrong <> subject
        and not array_has(array_concat(liked, array_concat(disliked, related)), wrong)
),
whole as (
    select * from pair_example
    union all
    select * from choose_example
    union all
    select * from nightly_example
    union all
    select * from rewrite_example
),
keyed as (
    select
        cast(md5(concat(task, ' ', coalesce(user_id, ''), ' ', coalesce(item_id, ''))) as varchar) as example_id,
        cast(md5(coalesce(user_id, item_id)) as varchar) as entity,
        *
    from whole
),
drawn as (
    select
        *,
        row_number() over (partition by task order by example_id) as place,
        case task when 'pair' then 50 when 'item' then 10 when 'history' then 10 else 15 end as share
    from keyed
),
typed as (
    select
        example_id,
        cast(task as varchar) as task,
        entity,
        cast(user_id as varchar) as user_id,
        cast(item_id as varchar) as item_id,
        label,
        cast(subject as varchar) as subject,
        cast(verdict as varchar) as verdict,
        cast(liked as varchar[]) as liked,
        cast(disliked as varchar[]) as disliked,
        cast(related as varchar[]) as related,
        cast(attributes as varchar[]) as attributes,
        cast(extra as varchar[]) as extra
    from drawn
    where place <= $max_examples * share / 100
)
select
    example_id,
    task,
    case when substr(entity, 1, 2) < '1a' then 'valid' else 'train' end as part,
    cast(case when substr(entity, 3, 1) < '8' then 0 else 1 end as bigint) as fold,
    user_id,
    item_id,
    $interval_start as as_of,
    example_prompt(task, subject, verdict, liked, disliked, related, attributes, extra) as prompt_text,
    '<think>' as answer_stem,
    example_answer(task, subject, verdict, liked, disliked, related, attributes, extra, example_id) as answer_text,
    label,
    subject,
    verdict,
    liked,
    disliked,
    related,
    attributes,
    extra
from typed
order by example_id
