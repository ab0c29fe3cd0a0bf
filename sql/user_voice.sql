-- What tonight's users wrote before $as_of, and what their latest likes are about: one row per user of whom either is known.
-- Never published.
--
-- praise, fault: at most three and two of the sentences of the user's latest 50 reviews that say most, each of another item;
-- what a sentence says is the sum of the rarity of its words, over the root of its length. content: of the eight latest
-- likes the first four that something is known of, each with the first sentence of its description, or without one the five
-- words that say most about it; the last colon with a space behind it ends the title. What others wrote of an item is not
-- shown: a history holds no sentence of somebody else.
with tonight as (
    select user_id from user_history
),
written as (
    select user_id, item_id, rating, summary, text
    from (
        select
            r.user_id,
            r.item_id,
            r.rating,
            r.summary,
            r.text,
            row_number() over (
                partition by r.user_id order by r.event_timestamp desc, r.item_id, r.summary, r.text, r.rating) as place
        from tonight as t
        join review as r on r.user_id = t.user_id
        where r.event_timestamp < $as_of
    )
    where place <= 50
),
judged as (
    select
        w.user_id,
        w.item_id,
        coalesce(w.rating >= $like_threshold, o.liked, true) as liked,
        sentences(concat_ws(chr(10), w.summary, w.text), 25) as told
    from written as w
    left join opinion as o on o.user_id = w.user_id and o.item_id = w.item_id
),
cut as (
    select user_id, item_id, liked, unnest(told) as sentence from judged
),
word as (
    -- Who writes the same twice has said it once.
    select distinct user_id, item_id, liked, sentence, word
    from (select user_id, item_id, liked, sentence, unnest(content_words(sentence)) as word from cut)
),
scored as (
    select
        w.user_id,
        w.item_id,
        w.liked,
        w.sentence,
        cast(sum(r.rarity) as double) / sqrt(cast(character_length(w.sentence) as double) + 40.0) as score
    from word_rarity as r
    join word as w on w.word = r.word
    group by w.user_id, w.item_id, w.liked, w.sentence
),
best_of_item as (
    select user_id, liked, sentence, score
    from (
        select
            user_id,
            liked,
            sentence,
            score,
            row_number() over (partition by user_id, item_id order by score desc, sentence, liked) as place
        from scored
    )
    where place = 1
),
voiced as (
    select
        user_id,
        array_agg(sentence order by place) filter (where liked) as praise,
        array_agg(sentence order by place) filter (where not liked and place <= 2) as fault
    from (
        select
            user_id,
            liked,
            sentence,
            row_number() over (partition by user_id, liked order by score desc, sentence) as place
        from (select distinct user_id, liked, sentence, score from best_of_item)
    )
    where place <= 3
    group by user_id
),
-- Only scripts without spaces have words of two characters, and Korean.
paired as (
    select distinct item_id from item_word where is_common and character_length(word) = 2
),
said as (
    select t.item_id, array_agg(t.sentence order by t.sentence) as sentences
    from paired as p
    join item_text as t on t.item_id = p.item_id
    group by t.item_id
),
worded as (
    select w.item_id, array_to_string(whole_words(w.words, s.sentences), ', ') as told
    from said as s
    right join (
        select item_id, array_agg(word order by place) as words
        from (
            select item_id, word, row_number() over (partition by item_id order by place) as place
            from item_word
            where is_common
        )
        where place <= 5
        group by item_id
    ) as w on w.item_id = s.item_id
),
described as (
    select item_id, replace(sentence, ': ', '; ') as told
    from item_text
    where user_id is null and text_no = 0 and place = 1
),
about as (
    select coalesce(d.item_id, w.item_id) as item_id, coalesce(d.told, w.told) as told
    from described as d
    full join worded as w on w.item_id = d.item_id
),
liked as (
    select
        user_id,
        seen['item_id'] as item_id,
        seen['title'] as title,
        row_number() over (
            partition by user_id order by seen['event_timestamp'] desc, seen['item_id'] desc) as place
    from (select user_id, unnest(recent) as seen from user_history)
    where seen['liked']
),
content as (
    select user_id, array_agg(concat(title, ': ', told) order by place) as content
    from (
        select l.user_id, l.title, a.told, row_number() over (partition by l.user_id order by l.place) as place
        from about as a
        join liked as l on l.item_id = a.item_id
        where l.place <= 8 and l.title is not null
    )
    where place <= 4
    group by user_id
)
select
    cast(coalesce(c.user_id, v.user_id) as varchar) as user_id,
    coalesce(v.praise, cast(make_array() as varchar[])) as praise,
    coalesce(v.fault, cast(make_array() as varchar[])) as fault,
    coalesce(c.content, cast(make_array() as varchar[])) as content
from content as c
full join voiced as v on v.user_id = c.user_id
order by user_id
